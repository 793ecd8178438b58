// Spring MVC with JDBC (pgjdbc, Jackson). Controllers are @Transactional: by the time this is called the transaction is rolled back.

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.sql.SQLException;
import org.postgresql.util.PSQLException;
import org.postgresql.util.ServerErrorMessage;
import org.springframework.dao.DataAccessException;
import org.springframework.http.ResponseEntity;
import org.springframework.web.bind.annotation.ExceptionHandler;
import org.springframework.web.bind.annotation.RestControllerAdvice;

@RestControllerAdvice
public class Guard {
    private final ObjectMapper json = new ObjectMapper();

    @ExceptionHandler(DataAccessException.class)
    public ResponseEntity<Void> refused(DataAccessException failure) {
        if (failure.getMostSpecificCause() instanceof PSQLException error) {
            String nonce = nonceOf(error);
            if (nonce != null) {
                return ResponseEntity.status(421).header("domicile-refused", nonce).build();
            }
        }
        throw failure;
    }

    /** The nonce of the guard's refusal, if {@code error} is one. */
    private String nonceOf(SQLException error) {
        String state = error.getSQLState();
        if (!"DM421".equals(state) && !"40001".equals(state)) {
            return null;
        }
        ServerErrorMessage message = ((PSQLException) error).getServerErrorMessage();
        if (message == null || message.getDetail() == null) {
            return null;
        }
        try {
            JsonNode nonce = json.readTree(message.getDetail()).path("nonce");
            return nonce.isTextual() ? nonce.asText() : null;
        } catch (JsonProcessingException other) {
            return null;
        }
    }
}
